"""Which method suits one's own concepts: short runs of several within a time budget, and how sure their result is."""
