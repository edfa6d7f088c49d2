"""The sections of a sweep's report: what each shows, and in one line why it cannot."""
