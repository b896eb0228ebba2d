"""The only room that knows SQL: tables, migrations, one writer, and plain functions over a connection.

Start with `database.Store`; the other public modules are repositories named for what they keep.
"""
