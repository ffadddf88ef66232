"""Everything that can be known before a GPU is touched: the job, its rows, the plan of a training, a forecast. No torch.

recipe -> `job.open_job` -> `prepare.prepare` -> `plan.compile_plan` -> a value that the worker carries out
"""
