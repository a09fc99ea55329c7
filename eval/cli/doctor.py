def add_doctor(commands): pass
