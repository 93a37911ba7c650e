"""What Airflow runs of this project: the step operator, the trigger form, the local server and the demo.

Imports nothing of `mtc` or `tasks`: Airflow and the training stack live in two interpreters, and steps are commands.
"""
