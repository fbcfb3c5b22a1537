"""Worker processes: who decides, who listens, who starts them."""
