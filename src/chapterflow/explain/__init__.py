"""What a trained model looks at: pictures from within it."""
