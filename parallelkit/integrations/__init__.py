"""Parallelkit behind the interfaces of other libraries: a module for each, none loaded here."""
