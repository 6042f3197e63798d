"""`edgekit doctor`: what this machine lacks, and the fix."""

from edgekit.cli.app import app
from edgekit.cli.groups import Json
from edgekit.cli.output import clean_stdout, emit


@app.command()
def doctor(json_: Json = False) -> int:
    """Python, glibc, processor, runtimes, memory, disk and hub here, and the fix for what is broken."""
    from edgekit.doctor import examine

    with clean_stdout() as out:
        found = examine()
        if json_:
            emit(out, found)
        else:
            for each in found["findings"]:
                out.write(f"{each['status']:<8} {each['name']}: {each['found']}\n")
                if each["fix"]:
                    out.write(f"{'':<8} fix: {each['fix']}\n")
            out.write("nothing is in the way\n" if found["healthy"] else "something is broken: see the fixes\n")
    return 0 if found["healthy"] else 1
