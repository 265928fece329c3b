//! The methods: one file each, one trait, one registry.
