#!/bin/sh
# Run every benchmark, one after the other; options are passed on (--quick, --threads, --repeats).
# PYTHON says which interpreter: PYTHON=.venv/bin/python benchmarks/run_all.sh
set -e
here=$(dirname "$0")
for name in epoch experts fit_predict import memory search weighting; do
    "${PYTHON:-python}" "$here/bench_$name.py" "$@"
    echo
done
