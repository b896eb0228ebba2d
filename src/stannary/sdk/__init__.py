"""The Python face: submit jobs, follow them, fetch results and receipts.

    from stannary.sdk.client import Client
    from stannary.sdk.submit import prepare, submit

Nothing is imported here, so that the command line pays only for what it uses.
"""
