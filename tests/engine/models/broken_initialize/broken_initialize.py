class Handler:
    def initialize(self, context):
        self.load("weights.pt")

    def load(self, name):
        raise RuntimeError(f"Error(s) in loading state_dict:\n\tsize mismatch in {name}")

    def handle(self, data, context):
        return data
