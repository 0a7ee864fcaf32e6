"""Is the loss of clients with much data worth more? The study of docs/study.md."""
