"""Counts: one number a step, as far as the request says, or until its client leaves (``forever``)."""

counts: dict[str, int] = {}


def handle(data, context):
    if data is None:
        return None
    seen = [context.get_request_id(index) for index in range(len(data))]
    for left in counts.keys() - set(seen):
        del counts[left]
    for name, row in zip(seen, data, strict=True):
        if row:
            body = bytes(row["body"]).decode()
            if body == "fail":
                raise ValueError("planted")
            counts[name] = -1 if body == "forever" else int(body)
    results = []
    for name in seen:
        counts[name] -= 1
        results.append(f"{len(data)} ")
    context.stopping_criteria = [lambda result, name=name: counts[name] == 0 for name in seen]
    return results
