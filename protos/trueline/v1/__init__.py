"""Version 1 of the wire: each .proto beside the modules generated from it (`make protos`)."""
