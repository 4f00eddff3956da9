"""Pictures with the places of things in them: label pictures beside a table, or data sets in their public layout."""
