"""`pivl-distill report`: one HTML page about any mix of teach, student and export runs.

write      the entry: find runs, build sections, write the page
runs       run folders and what their files say
networks   the trained networks of the runs, their test features and scores
context    what all sections work from
sections   one module per section of the page
blocks     what a section consists of: texts, tables, charts, pictures
charts     charts that several sections use
pictures   thumbnails, and the pixelation of heads
intervals  bootstrap over queries
opened     networks with their last maps: activation_maps, cell_features, chosen_cells,
           part_alignment
strips, part_visibility, verification, nearest_words, deployed
           what single sections compute
page       blocks to HTML; templates, style and script are in `templates/`
"""
