"""Making part maps: `pivl-distill parse`; `pivl_distill.data.parsing` reads them."""
