NAME = "next to the handler"
