"""Running an engine file: Engine, AsyncEngine, the thread that calls the native engine, and what goes in and comes out.

engine.py and async_engine.py are what people call; a request goes sampling_params -> prepared_request -> engine_thread,
its tokens come back by request_tracker -> outputs.
"""
