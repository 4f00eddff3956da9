"""External judges of pictures: rewards that steer, filters and evaluators."""
