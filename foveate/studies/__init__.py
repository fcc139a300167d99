"""Experiments that take hours: values in, files of rows out; a run that was broken off goes on where it stopped."""
