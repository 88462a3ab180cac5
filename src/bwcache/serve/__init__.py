"""Videos over HTTP: a bounded queue in front of one or more loaded pipelines, each step told as it is taken.

order     what a request asks for
steps     rows of a trace as one message for each step
pipeline  a loaded pipeline, which makes one batch after the other
job       a request and what becomes of it
desk      the queue: takes orders, forms batches, hands them to makers, cancels
shelf     the finished videos, as files
figures   what Prometheus reads
app       the addresses
address   the port
page      page.html
replicas  pipelines on a Ray cluster in the place of one in this process

How a request's words become an order, and how a pipeline is loaded, is told from outside.
"""
