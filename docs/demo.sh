#!/bin/sh
# The main job on a generated data set: sweep, compare, select, export, predict.
set -eu

rm -rf demo
ensweep data sample demo/data
ensweep data check demo/data
ensweep sweep demo --name demo --data-dir demo/data --storage demo/runs
ensweep leaderboard demo --storage demo/runs
ensweep ensemble demo --storage demo/runs
ensweep export demo --storage demo/runs --output demo/bundle --precision fp16 --data-dir demo/data
ensweep predict demo/bundle --task sentiment \
    --text "a warm , funny and deeply moving film" \
    --text "the plot is thin , and the jokes are worse" \
    --text "it is neither good nor bad"
echo "bundle: demo/bundle"
echo "compare the runs: ensweep ui --storage demo/runs"
