"""Two runs in pandas: python examples/compare_runs.py RUN_A RUN_B

`clipeval compare RUN_A RUN_B` has the paired tests and intervals; this is where to start for a question of your own.
"""

import sys

import clipeval

results = clipeval.load(*sys.argv[1:3])
print(results.table().round(4), end="\n\n")

first, second = results.labels
for task in results.table().dropna().index:
    rows = results.predictions(task)
    if not {"label", "prediction"} <= set(rows):  # retrieval and others have columns of their own
        continue
    rows["right"] = rows["label"] == rows["prediction"]
    wide = rows.pivot(index="key", columns="run", values="right")
    differing = wide[wide[first] != wide[second]]
    print(f"{task}: {len(wide)} samples, of which only one run is right on {len(differing)}")
    print(
        f"  {first}: {differing[first].sum()}, {second}: {differing[second].sum()}; the first of them: {list(differing.index[:3])}"
    )
