"""Rules between fields: one file per topic, each rule with its Python and its CEL."""
