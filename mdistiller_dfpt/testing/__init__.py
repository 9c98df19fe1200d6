"""For those who extend: the laws that every method, teacher and network must obey, and tiny things to try them on."""
