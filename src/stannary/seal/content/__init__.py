"""What the files of an artifact may be and hold, judged by name and bytes; nothing here opens, fetches or decrypts."""
