"""The page that answers a study: figures, tables and pictures from rows on disk. No torch."""
