"""The Training page: a tab on every DAG run and task instance, and a page that lists all runs.

`app` has the routes and their access rights, `history` reads a run's metrics.jsonl while it grows, `series` thins it for the screen, `summary` says
how a run stands; `static/` is the front end, plain ES modules without a build. uPlot, which draws the charts, is fetched from the npm registry by
`make setup` (`vendor`).
"""
