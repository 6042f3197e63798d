import os

# On networks this small a second thread of torch gains nothing, and spins while it waits. It reads this when it is
# imported, so no file of the tests may come before this one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
