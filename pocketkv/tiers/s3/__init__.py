"""Values in S3, or in any store that speaks its protocol: what is spilled, and what is retained.

`opening.open_store` makes a `store.S3Store`, which is all that others use, with the errors of
`errors`. Its calls block, so they are for worker threads. `client` is the only module that imports
boto3, when a store is made.

What lies under a prefix of a bucket, which belongs to one cluster::

    PREFIX/jobs/JOB/SERVER.RUN/pack-NNNNNNNN     small values of a job (packs.py)
    PREFIX/jobs/JOB/SERVER.RUN/large-NNNNNNNN    one large value (blobs.py)
    PREFIX/retained/JOB/TIME-SERVER.RUN-NNNNNNNN what outlives its job (retained.py)
    PREFIX/checks/SERVER.RUN                     written, read and deleted when a server starts

JOB and SERVER are ids (`address.encode_id`), RUN is random and new whenever a server starts, so no
two servers, and no two runs of one, ever write the same object. No object is ever written twice.

What is under ``jobs`` means something only to the process that wrote it, which knows all places
and checksums; it goes with the job (`S3Store.drop_job`), and what a server left that crashed is
found by `S3Store.sweep`. What is under ``retained`` describes itself, and stays until a purge.
"""
