"""Sizes of networks, in parameters, at which edgekit begins to save memory or time."""

SIDE_BY_SIDE_UP_TO = 50_000_000
"""Largest network that runs several images side by side. The layers of larger ones keep all cores busy."""
BUILT_APART_FROM = 50_000_000
"""Smallest network whose bundles are built in separate processes, with its weights in mapped files."""
BUILT_SIDE_BY_SIDE_FROM = 1_000_000
"""Smallest network whose bundles are built in several processes side by side. Each of them imports the compilers first,
which takes longer than to build a smaller network."""
CALIBRATED_ONCE_BELOW = 50_000_000
"""Networks of fewer parameters are calibrated once for all runtimes, which holds their weights three times. The
processes that build the bundles of larger ones hold them once."""
ROUNDED_TOGETHER_UP_TO = 150_000_000
"""Largest network whose layers are rounded together: by "fit", or by GPTQ in groups that share a pass over the images.
Above it, "fit" needs gigabytes, and GPTQ rounds one layer at a time."""
EIGHT_RANDOM_IMAGES_UP_TO = 1_000_000_000
"""Largest network with random weights that sees 8 random images, whose values take a GiB in addition to the weights.
Larger ones see 2."""
