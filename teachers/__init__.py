"""Teachers: CLIP → learned prompts → prompt bank → teacher network (π-VL §3.3–3.4).

Only this package imports open_clip. Start reading at `teach.py`.
"""
