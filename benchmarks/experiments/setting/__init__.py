"""HeteroFL in its authors' setting, beside the released code's own run on the same split (docs/evidence.md)."""
