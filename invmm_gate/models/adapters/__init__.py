"""Families of models behind one seam: each adapter turns what a network predicts into an estimate of x_0."""
