"""Which sandbox this machine offers, and which a market accepts.

bubblewrap first. Without it a *private* market's agent falls to namespaces of its own with Landlock,
which is printed and written into every contribution; an agent of a shared market refuses, since
strangers' jobs and strangers' machines both rely on the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable

from stannary.errors import EnvironmentProblem
from stannary.run.sandbox import bubblewrap, cgroup, unshare
from stannary.run.sandbox.process import Sandbox

SHARED = "shared"
ROOT_HINT = "run the agent as a user of its own, or allow unprivileged user namespaces"
INSTALL_HINT = "install bubblewrap (for example: apt-get install bubblewrap)"

Tell = Callable[[str], None]


def choose(profile: str, tell: Tell) -> Sandbox:
    """Return the strongest sandbox that works here.

    Args:
        profile: the market's: local, private or shared.
        tell: gets a line for everything that is weaker than it could be.

    Raises:
        EnvironmentProblem: none works, or none that a shared market accepts.
    """
    hierarchy = cgroup.find()
    if hierarchy is None:
        if profile == SHARED:
            raise EnvironmentProblem(
                "no control group can be written here",
                why="memory and processor limits of strangers' jobs would not hold",
                hint="run the agent as root, or under systemd with Delegate=yes",
            )
        tell("no control group can be written here: limits fall back to rlimits, which forks escape")
    else:
        hierarchy.sweep()
    strongest = bubblewrap.find(hierarchy)
    if strongest is not None and (strongest.leaves_root or profile != SHARED):
        if not strongest.leaves_root:
            tell(f"jobs keep root's user id here ({strongest.describe()}): {ROOT_HINT}")
        return strongest
    if strongest is not None:
        raise EnvironmentProblem(
            "jobs would keep root's user id here",
            why="this kernel lets no other user make a sandbox",
            hint=ROOT_HINT,
        )
    if profile == SHARED:
        raise EnvironmentProblem("bubblewrap does not work here", why="a shared market needs it", hint=INSTALL_HINT)
    weaker = unshare.find(hierarchy)
    if weaker is None:
        raise EnvironmentProblem(
            "no sandbox works here", why="neither bubblewrap nor user namespaces", hint=INSTALL_HINT
        )
    tell(f"bubblewrap does not work here: falling to {weaker.describe()}; {INSTALL_HINT}")
    return weaker
