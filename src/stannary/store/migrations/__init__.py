"""Migrations, one file each under versions/, run in order by migrate.py."""
