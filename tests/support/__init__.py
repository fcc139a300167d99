"""What tests stand on and share: no tests of its own."""
