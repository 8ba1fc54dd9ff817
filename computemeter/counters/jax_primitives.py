"""What each JAX primitive without a formula is to the counter: a known zero, or on the list.

Written out, because JAX keeps no list and its names follow no pattern. A primitive of neither set
is recursed into where it holds a program, and else goes on the list of uncounted operators.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _names("""
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type cos cosh digamma
    div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag
    integer_pow is_finite le le_to lgamma log log1p log_extend log_read logistic lt lt_to max
    min mul mulhi ne neg nextafter not or polygamma population_count pow real reciprocal
    reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor zeta
""")

_REDUCTIONS = _names("""
    approx_top_k argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce reduce_and
    reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_window reduce_window_max
    reduce_window_min reduce_window_sum reduce_xor select_and_gather_add select_and_scatter
    select_and_scatter_add sort top_k
""")

_DATA_MOVEMENT = _names("""
    bcoo_extract bcoo_fromdense bcoo_sort_indices bcoo_sum_duplicates bcoo_todense
    bcoo_transpose bcsr_extract bcsr_fromdense bcsr_todense bitcast broadcast_in_dim
    broadcast_to concatenate coo_fromdense coo_todense copy csr_fromdense csr_todense device_put
    dynamic_slice dynamic_update_slice einshape_lo empty empty2 from_edtype gather iota
    lu_pivots_to_permutation masked_load masked_swap pad reshape rev roll scatter scatter-add
    scatter-max scatter-min scatter-mul scatter-sub slice split squeeze stack stop_gradient tile
    to_edtype todense transpose unstack
""")

_RANDOM_NUMBERS = _names("""
    iota_2x32_shape philox2x32 philox4x32 random_bits random_clone random_fold_in random_gamma
    random_seed random_split random_unwrap random_wrap rng_bit_generator rng_uniform
    threefry2x32 threefry4x32
""")

_COMMUNICATION = _names("""
    global_array_to_host_local_array host_local_array_to_global_array
    all_gather all_gather_done all_gather_invariant all_gather_reduced all_gather_reduced_start
    all_gather_start all_to_all all_to_all_done all_to_all_start axis_index pbroadcast
    pbroadcast_done pbroadcast_start pmax pmin ppermute ppermute_done ppermute_start precv
    preduced psend psum psum_done psum_invariant psum_invariant_start psum_start pvary
    ragged_all_to_all reduce_scatter reduce_scatter_done reduce_scatter_start
    reduced_vary_cast_p reshard sharding_constraint unreduced_psum unreduced_psum_start
    unreduced_reduce_scatter unreduced_reduce_scatter_start vary_unreduced_cast_p
""")

# References to memory, tokens, shapes, debugging: they compute nothing.
_BOOKKEEPING = _names("""
    accum_grad_in_ref addupdate after_all box_get box_set check create_linear create_token
    dce_sink debug_callback debug_print dim_as_value dimension_size empty_ref free_ref freeze
    get inspect_sharding layout_constraint max_contiguous multiple_of name new_box new_log
    new_ref optimization_barrier pin platform_index remove_memory_space shape_assertion stage
    swap tie unpin unreachable with_memory_space_constraint
""")

ZEROS = _POINTWISE | _REDUCTIONS | _DATA_MOVEMENT | _RANDOM_NUMBERS | _COMMUNICATION | _BOOKKEEPING
"""Primitives without a contraction."""

LISTED = _names("""
    bcoo_dot_general bcoo_dot_general_sampled bcoo_spdot_general bcsr_dot_general
    buffer_callback call_exported call_hi_primitive call_hi_primitive_linearized cholesky_update
    coo_matmat coo_matvec coo_spmm coo_spmv core_map csr_matmat csr_matvec csr_spmm csr_spmv
    custom_call custom_lin eig eigh ffi_call hessenberg io_callback mosaic_gpu_p mpmd_map ormqr
    pallas_call pure_callback schur spsolve svd tpu_custom_call tridiagonal tridiagonal_solve
    xla_custom_call
""")
"""Primitives that do arithmetic without a formula; the programs that some of them hold are of
kernels, which run once per block, and are not read."""

CALLS = _names("""
    call closed_call composite cudnn_fusion custom_jvp_call custom_partitioning custom_vjp_call
    custom_vmap_call eval_jaxpr jit linear_call remat2 remat_opt run_scoped run_state
""")
"""Primitives that run the one program they hold, once."""

TRANSPARENT = _names("""
    broadcast_in_dim convert_element_type copy device_put dynamic_slice name
    optimization_barrier pvary reduce_precision reshape reshard sharding_constraint slice
    squeeze stop_gradient transpose
""")
"""Primitives whose result is their first operand in another form."""
