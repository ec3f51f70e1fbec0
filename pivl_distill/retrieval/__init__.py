"""From features to figures: the Market-1501 protocol, re-ranking, and search in huge galleries.

protocol     mAP, CMC and mINP of features, or of distances
matches      which gallery crops are hits and which are junk, from labels
ranks        the ranks of the hits, exact and without sorting
counting     the comparisons behind them, on the CPU and on a GPU
similarity   cosine in float32 for matrices, in float64 for pairs
reranking    k-reciprocal re-ranking, sparse and in chunks
search       an index over features in Parquet files
"""

from pivl_distill.retrieval.reid_metrics import RetrievalResult, evaluate, evaluate_distances
from pivl_distill.retrieval.reranking import rerank, rerank_rows

__all__ = ["RetrievalResult", "evaluate", "evaluate_distances", "rerank", "rerank_rows"]
