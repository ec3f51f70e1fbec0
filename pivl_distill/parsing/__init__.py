"""Making part maps: `pivl-distill parse`; `pivl_distill.data.part_maps` reads them."""
