"""Retrieval: Market-1501 metrics, re-ranking, operating thresholds and search in large galleries.

evaluation         evaluate a network on a data set's query and gallery
reid_metrics       mAP, CMC and mINP of features or distances
matches            hits and junk of each query, from labels
hit_ranks          exact ranks of the hits, without sorting the gallery
similarity_counts  comparisons of similarities with bounds, on the CPU and on a GPU
similarity         cosine similarity: float32 matrices and float64 pairs
robustness         mAP and Rank-1 under corruptions; camera_pairs between two cameras
top_matches        the gallery crops that a query finds first
thresholds         operating thresholds at false-accept rates
reranking          k-reciprocal re-ranking; k_reciprocal holds neighbours and encodings
faiss_index        a FAISS index of features in Parquet files
"""

from pivl_distill.retrieval.reid_metrics import RetrievalResult, evaluate, evaluate_distances
from pivl_distill.retrieval.reranking import rerank, rerank_rows

__all__ = ["RetrievalResult", "evaluate", "evaluate_distances", "rerank", "rerank_rows"]
