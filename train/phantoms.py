def write_phantom_dataset(*a, **k): raise NotImplementedError
