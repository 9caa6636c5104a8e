import time


def handle(data, context):
    if data is None:
        print("now it begins")
        time.sleep(1000)
