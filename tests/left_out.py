"""Tests that cannot be on Windows, or not under Wine, with the reason: they are skipped there.

What is a whole file's, and what depends on a package that is not installed, is marked in the file itself.
"""

import ctypes

from parallelkit.place import system

WINE = system.WINDOWS and hasattr(ctypes.windll.ntdll, "wine_get_version")

# By reason, and file: the test functions.
ON_WINDOWS = {
    "stops a process by a signal of POSIX": {
        "death": ["test_a_fork_server_that_is_stopped"],
    },
    "closes what a worker lives by elsewhere": {
        "death": ["test_an_item_that_closes_descriptors"],
    },
    "forks": {
        "death": [
            "test_a_child_that_an_item_has_forked_exits",
            "test_a_death_is_seen_while_a_child_lives",
        ],
    },
    "needs a terminal of POSIX": {
        "sweep_commands": ["test_colours_on_a_terminal"],
    },
    "sends Ctrl-C to one process; on Windows it goes to a console (test_windows.py)": {
        "sweep_commands": ["test_ctrl_c_on_the_command_line"],
    },
    "asks for POSIX' limits of a process": {
        "limits": ["test_descriptors_that_run_out", "test_the_limit_leaves_the_caller_alone"],
    },
    "reads a message by a socket": {
        "transport": ["test_a_call_that_ends_while_a_message_is_read"],
    },
    "names a file as no file is named on Windows": {
        "sweep_together": ["test_a_name_with_a_star_is_a_name"],
    },
}
UNDER_WINE = {
    "a process of several threads whose stack overflows lives on in Wine": {
        "crashes": ["test_an_overflow_of_the_c_stack"],
    },
    "Wine does not heed the limit of memory that a job has": {
        "limits": [
            "test_an_allocation_past_the_limit",
            "test_the_error_names_the_item",
            "test_numpy_meets_the_limit",
            "test_memory_in_small_pieces",
            "test_what_comes_and_goes_meets_the_limit",
            "test_retry_on_too_little_memory",
        ],
    },
    "Python's own executor hangs in Wine": {
        "functions": ["test_processes_that_an_item_starts_find_a_script_with_a_guard"],
    },
    "joblib's own processes hang in Wine": {
        "exits": ["test_processes_of_joblib_in_items_end_with_the_program"],
    },
}


def reasons():
    """The reason to leave a test out on this system, by file and function."""
    tables = [ON_WINDOWS] * system.WINDOWS + [UNDER_WINE] * WINE
    return {
        (file, test): reason
        for table in tables
        for reason, files in table.items()
        for file, tests in files.items()
        for test in tests
    }
