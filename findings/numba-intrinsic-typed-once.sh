#!/usr/bin/env bash
# numba 0.68.1: the typing function of an @intrinsic runs once in a process for given argument types, not once for each
# function that is compiled. What it decided from outside state (a processor's features, a flag, an environment variable) is
# kept for all functions compiled later, though their lowering runs anew: typing and lowering can then disagree.
# Seen: two functions compiled with the flag changed in between get the first one's type; the typing ran once.
# Met where kernels for several processors were tested in one process. A way around: make the intrinsic anew.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q numba==0.68.1
"$here/venv/bin/python" - <<'PY'
import numba
from numba import njit, types
from numba.extending import intrinsic

flag, typed = "wide", []


def make():
    @intrinsic
    def width(typing_context, value):
        typed.append(flag)
        kind = types.int64 if flag == "wide" else types.int8

        def lower(context, builder, signature, values):
            return context.get_constant(kind, 1)

        return kind(value), lower

    return width


shared = make()
first = njit(lambda x: shared(x))
first(1)
flag = "narrow"
again = njit(lambda x: shared(x))
again(1)
kept = again.nopython_signatures[0].return_type
fresh = make()
anew = njit(lambda x: fresh(x))
anew(1)
made = anew.nopython_signatures[0].return_type
print(f"numba {numba.__version__}: typing ran for {typed}; with the flag changed the shared intrinsic is {kept}, a fresh one {made}")
assert typed == ["wide", "narrow"], typed
assert (kept, made) == (types.int64, types.int8), (kept, made)
PY
