#!/bin/sh
# A stand-in for a vendor's launcher: it waits as long as a step would take and prints lines in the reference format.
# Usage: reference.sh GLOBAL_BATCH_SIZE NUM_STEPS
set -eu
size=$1 steps=$2
step_s=$(awk "BEGIN { print 0.1 + $size / 4000 }") # what a step takes: a fixed part, and one for each sample

seconds() { date +%s.%N; } # GNU date; others have no %N

echo "Global batch size $size, steps 1 to $steps"
began_s=$(seconds) last_s=$began_s rate=0 step=0
while [ "$step" -lt "$steps" ]; do
    step=$((step + 1))
    sleep "$step_s"
    now_s=$(seconds)
    loss=$(awk "BEGIN { printf \"%.5f\", 2 + 6 / $step ^ 0.3 }")
    # Rate is smoothed as the published one is: 0.6 of this window, 0.4 of the rate before.
    set -- $(awk "BEGIN {
        now = $size / ($now_s - $last_s)
        smoothed = $step == 1 ? now : 0.6 * now + 0.4 * $rate
        printf \"%.2f %.2f\", smoothed, $size * $step / ($now_s - $began_s)
    }")
    rate=$1
    echo "Step=$step, Loss=$loss, Rate=$rate samples/sec, GlobalRate=$2 samples/sec"
    last_s=$now_s
done
awk "BEGIN { printf \"Processed %d sample(s) in %.9f seconds.\\n\", $size * $steps, $now_s - $began_s }"
