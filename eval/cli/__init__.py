"""The commands: arguments, what each calls, and what is printed."""
