"""Consumers: programs that run our networks, each with a folder made for it and measured in it.

base      what a consumer is
graphs    graph forms: the input that a consumer feeds, as nodes in front of the network
measure   vectors, mAP and thresholds through a consumer's own code
worker    consumers in a process of their own
folders   write, measure and record the folder of each consumer
scripts   run inside a consumer's environment

The other modules are one consumer each.
"""
