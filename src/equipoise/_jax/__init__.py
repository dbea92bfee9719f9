"""All that the library knows of JAX below its documented surface, a small adapter a purpose.

==============  ============================================  ========================
adapter         imports                                       seen to work on jax
==============  ============================================  ========================
``programs``    ``jax.extend.core``: ClosedJaxpr, Jaxpr,      0.9.0, 0.10.2, 0.12.0.1
                JaxprEqn, Literal, Var
``evaluation``  ``jax.extend.core``: ClosedJaxpr, Var,        0.9.0, 0.10.2, 0.12.0.1
                jaxpr_as_fun
``primitives``  ``jax.extend.core``: Primitive;               0.9.0, 0.10.2, 0.12.0.1
                ``jax.interpreters``: ad, batching, mlir;
                of a lowering: ``axis_context``,
                ``lowering_parameters.for_export``
``varying``     of ``jax.typeof``: ``vma``, ``mat``; the      0.9.0, 0.10.2, 0.12.0.1
                primitives ``pvary`` and ``reshard``
``zeros``       ``jax.custom_derivatives``: SymbolicZero      0.9.0, 0.10.2, 0.12.0.1
==============  ============================================  ========================

``late``, ``meshes``, ``pruned``, ``reads``, ``traced`` and ``tracing`` are written in terms of
``programs``.
``tests/test_imports.py`` holds the table, as nothing else imports from these places, and
``tests/test_jax_programs.py`` holds what the adapters say on each version that CI runs.
"""
