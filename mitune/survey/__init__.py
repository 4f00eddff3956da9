"""The human study: people choose among pictures, and their answers become tables with intervals."""
