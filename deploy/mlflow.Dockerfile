# The image of deploy/compose.yaml: MLflow as in constraints.txt, with what its logins, PostgreSQL and
# an S3 store need of it.
FROM python:3.11.13-slim-bookworm
COPY constraints.txt /
RUN pip install --no-cache-dir -c /constraints.txt 'mlflow[auth]' 'psycopg[binary]' boto3
USER nobody
