"""The stages: prepare, measure, confirm, judge, report, publish. Each is one function, one command, one record file.

`prepare` and the stages after `confirm` never import torch; the only place that builds models and metrics is `session`.
"""
